"""The controller: configuration, proposers, population, journal, command line."""

__version__ = "0.1.0"
