"""Post-processing: a collected output becomes a finished text file with a record beside it."""

from collector.integrations.postprocess.finalize import (
    ProcessedResult,
    ProcessingStage,
    ProcessingStatus,
    Transform,
    finalize_processing,
)
from collector.integrations.postprocess.line_transforms import (
    collapse_blank_runs,
    normalise_line_ends,
    strip_code_fences,
)

__all__ = [
    "ProcessedResult",
    "ProcessingStage",
    "ProcessingStatus",
    "Transform",
    "collapse_blank_runs",
    "finalize_processing",
    "normalise_line_ends",
    "strip_code_fences",
]
