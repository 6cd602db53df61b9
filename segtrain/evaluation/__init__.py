"""A volume to numbers and pictures.

evaluate.py      validation in training: each patient whole, by one rank, once
predictor.py     a network as a function from a prepared volume to probabilities
metrics.py       counts, DSC, means with their interval, components
surface.py       distances between surfaces, in mm where the spacing is known
surfels.py       HD95 of single lesions, on surfaces weighted by area, as BraTS 2023 has it
lesions.py       lesions matched and scored, by overlap or by BraTS's rules
lesion_table.py  a row for each lesion; recall by size
volumes.py       lesion volumes and their agreement; agreement_figure.py: its plot
units.py         mm and ml of voxels
region_scores.py the numbers of a region in one geometry, and the rules for them
patient_scores.py  a row a patient and region, in the prepared and the original geometry
scores.py        those of many patients, by several processes
summary.py       the means of the rows, with intervals, strata and rules; show.py: on the terminal
lesion_summary.py  recall by lesion size and agreement of volumes over people; the table of lesions
calibration.py   reliability of probabilities and its error; calibration_figure.py: its diagram
calibration_summary.py  that of all people; the ceiling that preparation sets to the DSC
tta.py           probabilities averaged over flips and small rotations
ensemble.py      checkpoints selected, verified and opened as one predictor
spread.py        the mean of an ensemble's members and their spread, by running sums
uncertainty.py   entropy and spread in numbers; uncertainty_files.py: written; heat_maps.py: drawn
out_of_fold.py   patients predicted by runs that did not train on them
candidates.py    candidates for post-processing, all counted at once in a patient
postprocessing.py  the choice among them, and what it is worth; choice_by_fold.py: for the runs of an ablation
chosen_settings.py  the chosen settings in place of the configured ones
suspects.py      masks that may be wrong; evidence.py: against one mask; swaps.py: between patients
predictions.py   a folder of patients, predicted; prediction_files.py: masks, pictures and scores, written
overlays.py      prediction and truth over a slice; sheets of them
lesion_places.py missed, false and found lesions by slice, the worst of them; lesion_marks.py: drawn over a slice
worst.py         a sheet of the worst patients, by DSC or by their worst lesion
bars.py          a bar chart of DSC; svg.py: figures as SVG, and as pixels
gallery.py       pictures of what augmentation does
"""
