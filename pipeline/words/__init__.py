"""The project's nouns: records, rows, configuration, seeds. No torch and no ray in here."""
