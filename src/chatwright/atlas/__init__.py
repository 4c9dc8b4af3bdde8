"""The world of the laptop default: facts of countries, ways of saying them, demonstrations, questions."""
