"""One backend for each wrong worker."""

from imagegen_core import Backend, hookimpl

FAULTS = (
    "AnotherGenerator",
    "AnotherPass",
    "AnyDevice",
    "BeginsAlike",
    "BlindToPrompts",
    "BreaksOnErrors",
    "ChangesItsPlan",
    "CutsSeeds",
    "DrawsInPreviews",
    "DrawsOtherwiseAfterTrials",
    "ForgetsGuidance",
    "ForgetsSettings",
    "GroupsAll",
    "GuessesASampler",
    "HoldsOn",
    "HurriesOn",
    "IgnoresNegativePrompts",
    "IgnoresStops",
    "IgnoresStyles",
    "KeepsLatents",
    "LeavesFiles",
    "LeavesThreads",
    "Mixes",
    "MovesInTrials",
    "NativeAlways",
    "NeedsNewFields",
    "NotOnOtherThreads",
    "PlainErrors",
    "Prints",
    "Remembers",
    "ResolvesFutures",
    "SameAlways",
    "SeedsTheProcess",
    "SharesState",
    "Silent",
    "SquareByDefault",
    "TellsNoSeed",
    "TurnsPictures",
    "WideLatents",
    "WritesIntoRequests",
)


@hookimpl
def imagegen_backends() -> list[Backend]:
    """Return a backend for each fault, with the toy's declarations."""
    return [
        Backend(
            name=fault,
            summary="wrong in one way",
            worker=f"imagegen_wrong.workers:{fault}",
            default_size="64x64",
            without=(
                "scheduler",
                "clip_skip",
                "style_lora",
                "guidance_rescale",
                "image",
                "variation",
                "micro_conditioning",
                "hires",
                "refiner",
            ),
        )
        for fault in FAULTS
    ]
