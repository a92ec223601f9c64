"""The public function of `mvmise_sm.scanning`; a module of the function's own name would hide it once imported."""

from mvmise_sm.scanning import ScanResult, qvalues, scan

__all__ = ["ScanResult", "qvalues", "scan"]
