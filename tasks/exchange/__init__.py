"""Forms in which other tools read and write items, labels, votes and what people decided; a file per form."""
