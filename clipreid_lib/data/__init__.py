"""Images as rows of a table: data sets, photographs, protocols and their manifests, the audit."""
