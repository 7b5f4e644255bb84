"""The project's nouns: records, rows, configuration, seeds. Neither torch nor ray is imported here."""
