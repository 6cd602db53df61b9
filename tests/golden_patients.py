"""The two patients whose preparation by the reference program lies in the golden folder."""

GOLDEN_PATIENTS = ("TCGA_CS_5393_19990606", "TCGA_HT_7602_19951103")
