"""The one exception that means: what you gave us is wrong, and here is what to do."""


class InputError(ValueError):
    """Wrong input, told in a sentence that says what is wrong, where, and what to do.

    The command line and the stages print the sentence without a traceback and exit with 1.
    """

    def __str__(self) -> str:
        # a data-loading process hands it on inside the text of its traceback
        return super().__str__().rpartition("InputError: ")[2].strip()
