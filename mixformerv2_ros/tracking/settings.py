"""What can be tuned of a tracker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrackerSettings:
    """Settings of one tracker; replaced as a whole, between two frames.

    Names, ranges and descriptions that users see stand in `parameters.py`. What the weights were
    trained with has no default: `ros.parameters.tracker_settings` takes it from their bundle.

    Attributes:
        search_factor: Side of the search region over sqrt(w * h) of the last box.
        template_factor: The same for templates.
        template_background_contrast: Contrast that remains around the target in templates (1 =
            all, as published); belongs to the weights, which have been trained with it.
        update_interval: Frames between two changes of the online template.
        update_period: Seconds of image time between two changes; 0 counts frames instead.
        update_score_threshold: A frame can become the online template only above this confidence.
        max_score_decay: Factor per frame on the best candidate's score, so that an old candidate
            gives way to a newer one (1 = never).
        online_size: Number of online templates kept.
        uncertain_threshold: Confidence below which the target is no longer surely tracked.
        uncertain_duration: Seconds that the confidence must stay below it.
        lost_threshold: Confidence below which the target counts as gone.
        lost_duration: Seconds that the confidence must stay below it.
    """

    search_factor: float
    template_factor: float
    template_background_contrast: float
    update_interval: int = 25
    update_period: float = 0.0
    update_score_threshold: float = 0.5
    max_score_decay: float = 1.0
    online_size: int = 1
    uncertain_threshold: float = 0.4
    uncertain_duration: float = 0.0
    lost_threshold: float = 0.2
    lost_duration: float = 1.0
