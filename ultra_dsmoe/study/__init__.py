"""Train and validate all that a study file names, and say what came out: ``dsmoe-yolo study STUDY.yaml``.

Every cell (model x data x seed) is trained by ``yolo train`` and validated in processes of its own, so that one that
crashes takes nothing with it. A study that was stopped is started by the same command: finished cells are not run
again, a begun one goes on from its last checkpoint. One row per finished run goes to ``OUT/NAME.csv``, what was seen
per image to ``OUT/cells``: a cell that another study has run with the same settings is taken from there. Means,
verdicts against the baseline and a picture go to ``OUT/NAME.md`` and ``OUT/NAME.png``. What a study file holds:
`reader`; how cells are run: `runner`; what is kept of a cell: `store`; how models are compared: `verdict`.
"""
