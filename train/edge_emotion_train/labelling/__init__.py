"""The data engine: recordings to measured, levelled, explained and checked emotion data (`edge-emotion label`).

Every step reads records, adds its fields and writes records, restartably (`engine`), into one folder:

    measured.jsonl     `measure`: measures, intonation, prominence of words
    thresholds.json    `calibrate`: cut points between levels, by speaker, corpus and population
    levelled.jsonl     `calibrate`: the level of every cue
    labelled.jsonl     `write`: the reasoning
    errors.jsonl       what went wrong in all steps, in the order of the source: id, step, cause, and the field that is
                       missing for it or null where the whole clip is
    run.json           of each step: settings, versions, hashes of input and output, counts (in = out + failed)
    .*.journal         results of a step that has not finished; the same command goes on from it
    .*.keys            which line was made from which input, so that a second run takes over what has not changed
"""
