"""The report page of a run: report.py writes it, from the parts that stand here."""
