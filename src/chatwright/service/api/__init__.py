"""The page's API over HTTP: docs/service_api.md says what it is."""
