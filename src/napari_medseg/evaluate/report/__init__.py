"""What a comparison leaves behind: one HTML file that needs nothing else, and the same as JSON."""

from napari_medseg.evaluate.report.writing import Report, make_report, write_report

__all__ = ["Report", "make_report", "write_report"]
