"""Tables: rows of numbers and categories, with missing values; read from CSV, written back with the same header and types."""
