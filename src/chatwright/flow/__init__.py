"""From a recipe to finished stages: what is done is skipped, what broke resumes, every file knows its origin."""
