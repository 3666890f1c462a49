"""What each chip that is simulated lacks, by the documents of CANN's operator library, hicann/ops-nn.

Only of kernels over lists of tensors: each needs a document here before a simulated chip computes it. A chip computes
an operator if the document names the chip's family; that torch_npu might take a loop instead is not relied on.
"""

import re

A2, A3, ASCEND_950 = "Atlas A2", "Atlas A3", "Ascend 950"
FAMILIES = {r"Ascend910B\d": A2, r"Ascend910_93": A3, r"Ascend950": ASCEND_950}  # others: the original 910, the 310s
NEWER = {A2, A3, ASCEND_950}

# operator: (document, the families that it says are supported)
DOCUMENTS = {
    "_foreach_add": ("foreach/foreach_add_list/docs/aclnnForeachAddListV2.md", NEWER),
    "_foreach_add_": ("foreach/foreach_add_list/docs/aclnnForeachAddListV2.md, foreach_add_scalar/README.md", NEWER),
    "_foreach_addcdiv_": ("foreach/foreach_addcdiv_scalar_list/README.md", NEWER),
    "_foreach_addcmul_": ("foreach/foreach_addcmul_scalar/README.md", NEWER),
    # its README and its English document name A2 and Ascend 950 only; docs/aclnnForeachCopy.md of later has A3, too
    "_foreach_copy_": ("foreach/foreach_copy/README.md", {A2, ASCEND_950}),
    "_foreach_div_": ("foreach/foreach_div_scalar_list/README.md", NEWER),
    "_foreach_lerp_": ("foreach/foreach_lerp_scalar/README.md", NEWER),
    "_foreach_mul_": ("foreach/foreach_mul_scalar/README.md", NEWER),
    "_foreach_norm": ("foreach/foreach_norm/README.md", NEWER),
    "_foreach_sqrt": ("foreach/foreach_sqrt/README.md", NEWER),
    "_fused_sgd_": ("optim/fused_sgd/docs/aclnnFusedSgd.md", NEWER),
    "_fused_adamw_": ("optim/apply_adam_w/docs/aclnnApplyAdamW.md", {ASCEND_950}),
    # without aclnnForeachNonFiniteCheckAndUnscale, torch_npu computes it on these chips from others of their operators
    "_amp_foreach_non_finite_check_and_unscale_": (
        "foreach/foreach_non_finite_check_and_unscale/README.md",
        NEWER | {""},
    ),
}


def family(chip: str) -> str:
    """The name of the chip's family; empty for an old one."""
    return next((name for pattern, name in FAMILIES.items() if re.match(pattern, chip)), "")


def refusal(operator: str, chip: str) -> str:
    """Why the chip has no kernel for the operator `aten::name.overload`; empty if it has one."""
    base = operator.removeprefix("aten::").split(".")[0]
    if not base.startswith(("_foreach_", "_fused_", "_amp_foreach_")):
        return ""
    if base not in DOCUMENTS:
        return "no document of it is in tests/npu/simulator/chips.py"
    document, families = DOCUMENTS[base]
    return "" if family(chip) in families else f"{document} does not name {chip}"
