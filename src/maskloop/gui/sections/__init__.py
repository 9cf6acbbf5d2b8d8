"""The panel's five sections, one a verb."""
