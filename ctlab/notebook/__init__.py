"""The notebook's face: magics, completion, widgets. They parse, call and show, nothing else."""
