"""What people ask beside the five verbs: listings, checks, cases."""
