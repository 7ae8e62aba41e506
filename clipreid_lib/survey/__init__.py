"""The look at the data: what notebook 01 and ``clipreid data`` count, open and draw."""
