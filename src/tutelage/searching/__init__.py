"""Searching for a student: many architectures looked at cheaply, a few distilled, and a page that says why."""

from tutelage.searching.compressing import propose_compressed
from tutelage.searching.proposing import Proposal, RememberedScores
from tutelage.searching.search import Candidate, make_space, search_students

__all__ = [
    "Candidate",
    "Proposal",
    "RememberedScores",
    "make_space",
    "propose_compressed",
    "search_students",
]
