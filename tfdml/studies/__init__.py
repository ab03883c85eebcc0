"""Studies: each answers one question by training and measuring, as `python -m tfdml.studies.NAME --out DIR`."""
