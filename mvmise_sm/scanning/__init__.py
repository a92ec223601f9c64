"""One design, thousands of features."""

from mvmise_sm.scanning.job import ScanResult, scan

__all__ = ["ScanResult", "scan"]
