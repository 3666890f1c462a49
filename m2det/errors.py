"""The one exception that means: what you gave us is wrong, and here is what to do."""


class InputError(ValueError):
    """Wrong input, told in a sentence that says what is wrong, where, and what to do.

    The command line and the stages print the sentence without a traceback and exit with 1.
    """
