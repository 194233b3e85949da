"""Errors of a predicted flow: the figures to trust, those that published codes print, all by name.

``runtime.scores`` has the errors per frame and over a sequence, ``runtime.published`` the same
titles as published codes compute them, ``runtime.metric_registry`` every metric by name, and
``runtime.warping`` what needs no ground truth. See docs/metrics.md.
"""

from runtime import published as published
from runtime.metric_registry import METRICS as METRICS
from runtime.metric_registry import ChosenMetrics as ChosenMetrics
from runtime.metric_registry import Metric as Metric
from runtime.metric_registry import MetricError as MetricError
from runtime.metric_registry import MetricValue as MetricValue
from runtime.metric_registry import find_metrics as find_metrics
from runtime.scores import Flow as Flow
from runtime.scores import FrameScore as FrameScore
from runtime.scores import Mask as Mask
from runtime.scores import Plane as Plane
from runtime.scores import SequenceScore as SequenceScore
from runtime.scores import angle_degrees as angle_degrees
from runtime.scores import end_point_error as end_point_error
from runtime.scores import flow_in_pixels as flow_in_pixels
from runtime.scores import score_frame as score_frame
from runtime.scores import scoring_mask as scoring_mask
from runtime.scores import total_score as total_score
from runtime.scores import valid_ground_truth as valid_ground_truth
from runtime.warping import averaged_image as averaged_image
from runtime.warping import flow_warp_loss as flow_warp_loss
from runtime.warping import rsat as rsat
