"""What every listed model costs, as data: counting it needs torch and seconds, listing it must not.

A test counts all of it anew.
"""

# By name (with the tag, where there are weights) and implementation: parameters, and multiply-adds in billions of one
# image of the native size, 224x224 pixels and 1000 classes where there are no weights.
COSTS: dict[tuple[str, str], tuple[int, float]] = {
    ('coatnet_atto.digits', 'paper'): (356_232, 0.006808),
    ('coatnet_nano.sw_in1k', 'timm'): (15_141_244, 2.383),
    ('coatnet_nano.rmlp_sw_in1k', 'timm_rmlp'): (15_145_116, 2.594),
    ('coatnet_0.sw_in1k', 'timm'): (27_435_562, 4.406),
    ('coatnet_0.bn_sw_in1k', 'timm_bn'): (27_435_562, 4.647),
    ('coatnet_1.sw_in1k', 'timm'): (41_721_502, 7.992),
    ('coatnet_1.rmlp_sw_in1k', 'timm_rmlp'): (41_691_982, 7.807),
    ('coatnet_1.rmlp2_sw_in12k_ft_in1k', 'timm_rmlp2'): (41_724_622, 8.067),
    ('coatnet_1.rmlp2_sw_in12k', 'timm_rmlp2'): (50_045_971, 8.075),
    ('coatnet_2.sw_in12k_ft_in1k', 'timm'): (73_868_400, 15.02),
    ('coatnet_2.sw_in12k', 'timm'): (84_959_925, 15.03),
    ('coatnet_2.rmlp_sw_in1k', 'timm_rmlp'): (73_881_264, 15.11),
    ('coatnet_2.rmlp_sw_in12k', 'timm_rmlp'): (84_972_789, 15.13),
    ('coatnet_2.rmlp_sw_in12k_ft_in1k', 'timm_rmlp'): (73_881_264, 15.11),
    ('coatnet_2.rmlp_sw_in12k_ft_in1k_384', 'timm_rmlp'): (73_881_264, 47.49),
    ('coatnet_3.sw_in12k', 'timm'): (181_805_305, 33.34),
    ('coatnet_0', 'paper'): (25_036_820, 4.142),
    ('coatnet_0', 'chinhsuanwu'): (17_789_624, 3.395),
    ('coatnet_1', 'paper'): (42_225_776, 8.239),
    ('coatnet_1', 'chinhsuanwu'): (33_170_624, 7.057),
    ('coatnet_2', 'paper'): (74_701_256, 15.55),
    ('coatnet_2', 'chinhsuanwu'): (55_767_564, 13.05),
    ('coatnet_3', 'paper'): (167_003_320, 34.49),
    ('coatnet_3', 'chinhsuanwu'): (117_724_480, 27.82),
    ('coatnet_4', 'paper'): (275_462_344, 60.35),
    ('coatnet_4', 'chinhsuanwu'): (203_960_368, 48.82),
    ('coatnet_5', 'paper'): (687_052_952, 142.2),
    ('coatnet_6', 'paper'): (1_471_162_288, 265.3),
    ('coatnet_7', 'paper'): (2_441_972_728, 457.9),
    ('coatnet_0.kecam_in1k', 'keras_cv'): (23_279_570, 4.136),
    ('coatnet_0.kecam_in1k_160', 'keras_cv'): (23_256_530, 2.076),
    ('coatnet_1', 'keras_cv'): (40_436_846, 8.233),
    ('coatnet_2', 'keras_cv'): (71_613_904, 16.01),
    ('coatnet_3', 'keras_cv'): (160_135_876, 35.54),
    ('coatnet_4', 'keras_cv'): (268_495_828, 61.41),
    ('coatnet_5', 'keras_cv'): (674_417_200, 142.5),
    ('coatnet_6', 'keras_cv'): (1_333_928_982, 260.2),
    ('coatnet_7', 'keras_cv'): (2_410_874_904, 457.3),
}
