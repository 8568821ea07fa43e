"""Room 6: wording, tables, figures and the page. Everything here can be regenerated from a run's numbers."""
