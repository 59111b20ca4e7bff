"""Vocabularies made of counts: files and tallies, read once a pass, into a vocabulary folder or a tally."""
