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
        reacquire_frames: Images in a row in which a lost target that was found elsewhere must be
            seen before it is followed there (0 = it is not looked for elsewhere).
        reacquire_crops: Crops per image that looking for lost targets may take, for all of them.
        reacquire_score_threshold: Confidence that a find must have.
        reacquire_margin: What it must have more than any find at another place.
        reacquire_max_speed: Farthest distance per second since the last sure box, and in the first
            one, in sides of that box (sqrt(w * h)).
        separate_score_threshold: Confidence that two targets on one object must both exceed at two
            places to be separated; 1 leaves them together.
        exit_threshold: IoU that an exit must estimate for its own box to be taken; 1: full depth.
        exit_thresholds: The same for every exit of the model in their order; empty: all alike.
        exit_deadline_ms: Milliseconds from the beginning of the work on a frame within which its
            search should end, at the exit after which the next would come too late; 0: none.
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
    reacquire_frames: int = 5
    reacquire_crops: int = 8
    reacquire_score_threshold: float = 0.7
    reacquire_margin: float = 0.05
    reacquire_max_speed: float = 10.0
    separate_score_threshold: float = 1.0
    exit_threshold: float = 1.0
    exit_thresholds: tuple[float, ...] = ()
    exit_deadline_ms: float = 0.0

    @property
    def asks_exits(self) -> bool:
        """Whether exits may answer, of a model that has some."""
        return self.has_threshold or self.exit_deadline_ms > 0

    @property
    def has_threshold(self) -> bool:
        """Whether some exit may answer for its estimate."""
        return min(self.exit_thresholds, default=self.exit_threshold) < 1

    def threshold_of(self, number: int) -> float:
        """The threshold of exit `number`, counted from 0."""
        return self.exit_thresholds[number] if self.exit_thresholds else self.exit_threshold
