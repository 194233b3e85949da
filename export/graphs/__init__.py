"""One module per kind of graph, and the builder they share."""
