"""What a world is: its settings, its objects, and the finished record.

In:  the numbers a person chooses (WorldConfig).
Out: World: frames (T, H_px, W_px, 3), trajectory ids (T, H_px, W_px), attributes, captions, questions.
Filled by render.py and language.py; handed on by dataset.py and by whoever writes files.
"""

from dataclasses import asdict, dataclass, field

import numpy as np

_EASY = {
    "max_objects": 4,
    "object_size_range": (0.22, 0.40),
    "photographs": False,
    "clutter": 0.3,
    "camera_motion": 0.0,
    "lighting": 0.3,
    "noise": 0.2,
    "allow_occlusion": False,
    "allow_enter_leave": False,
    "allow_second_motion": False,
}
DIFFICULTIES = {
    "easy": _EASY,
    # As easy to see, but things happen that can be asked about.
    "eventful": {**_EASY, "allow_occlusion": True, "allow_enter_leave": True},
    "default": {},
    "hard": {"min_objects": 4, "max_objects": 9, "object_size_range": (0.14, 0.34), "clutter": 1.0},
}


@dataclass(frozen=True)
class WorldConfig:
    """Settings of the generator. `WorldConfig.named("hard", num_frames=16)` starts from a named difficulty.

    Attributes:
        num_frames: T >= 1. A world of one frame has no motion.
        height: Frame height in pixels, at least 32.
        width: Frame width in pixels, at least 32.
        fps: Frames per second of the clip; only recorded, motion is spread over the clip whatever its length.
        min_objects: Fewest objects placed, unless the frame has no room for them.
        max_objects: Most objects placed.
        object_size_range: Smallest and largest diameter as a fraction of the shorter frame side.
        photographs: Use the photographs inside scikit-image as backgrounds and materials.
        clutter: Contrast of the background, 0 (faint) to 1 (full).
        camera_motion: Extent of camera motion, 0 (always static) to 1.
        lighting: Extent of lighting changes over time and over the frame, 0 to 1.
        noise: Extent of sensor noise, blur and JPEG artefacts, 0 (none) to 1.
        allow_occlusion: Objects may pass in front of each other.
        allow_enter_leave: Objects may enter and leave the frame.
        allow_second_motion: Moving objects may also spin, grow or shrink.
    """

    num_frames: int = 8
    height: int = 128
    width: int = 128
    fps: float = 8.0
    min_objects: int = 2
    max_objects: int = 6
    object_size_range: tuple[float, float] = (0.18, 0.40)
    photographs: bool = True
    clutter: float = 0.7
    camera_motion: float = 1.0
    lighting: float = 1.0
    noise: float = 1.0
    allow_occlusion: bool = True
    allow_enter_leave: bool = True
    allow_second_motion: bool = True

    def __post_init__(self):
        object.__setattr__(self, "object_size_range", tuple(self.object_size_range))
        if self.num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {self.num_frames}.")
        if min(self.height, self.width) < 32:
            raise ValueError(f"height and width must be at least 32 pixels, got {self.height} x {self.width}.")
        if self.fps <= 0:
            raise ValueError(f"fps must be positive, got {self.fps}.")
        if not 1 <= self.min_objects <= self.max_objects:
            raise ValueError(
                "expected 1 <= min_objects <= max_objects, "
                f"got min_objects={self.min_objects}, max_objects={self.max_objects}."
            )
        smallest, largest = self.object_size_range
        if not 0 < smallest <= largest <= 0.8:
            raise ValueError(
                f"object_size_range must be two rising fractions in (0, 0.8], got {self.object_size_range}."
            )
        for name in ("clutter", "camera_motion", "lighting", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}.")

    @classmethod
    def named(cls, difficulty: str, **changes) -> "WorldConfig":
        """The settings of a named difficulty, with single fields changed.

        Raises:
            ValueError: the difficulty is not one of `DIFFICULTIES`.
        """
        if difficulty not in DIFFICULTIES:
            raise ValueError(f"expected a difficulty of {', '.join(DIFFICULTIES)}, got {difficulty!r}.")
        return cls(**{**DIFFICULTIES[difficulty], **changes})


@dataclass
class WorldObject:
    """One object that is seen in at least one frame.

    Attributes:
        id: Its value in `World.trajectory_ids`, 1..M, the nearest to the camera first.
        shape: A key of `SHAPES`.
        colour: A key of `COLOURS`.
        material: A key of `MATERIALS`.
        size: Diameter at the start as a fraction of the shorter frame side, before the camera's zoom.
        motion: One of `OBJECT_MOTIONS`, relative to the scene (what the camera does is not counted).
        second_motion: What it does besides, or "".
        start_frame: First frame in which it has visibly begun its motion; None for one that stays still.
        enters_frame: Wholly outside the picture in the first frame, inside later.
        leaves_frame: Inside the picture at some time, wholly outside in the last frame.
        visible_fraction: (T,) share of its whole area that is seen, neither hidden nor outside.
        occluded_by: Ids of the objects that hide at least a tenth of it in some frame.
        centres: (T, 2) x and y of its centre as fractions of the picture's width and height, outside it as well.
            Records of older versions have none.
    """

    id: int
    shape: str
    colour: str
    material: str
    size: float
    motion: str
    second_motion: str
    start_frame: int | None
    enters_frame: bool
    leaves_frame: bool
    visible_fraction: list[float]
    occluded_by: list[int]
    centres: list[list[float]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Colour and shape, which no two objects of a world share: "red star"."""
        return f"{self.colour} {self.shape}"


@dataclass
class World:
    """A rendered world with its ground truth.

    Attributes:
        frames_uint8: (T, H_px, W_px, 3) RGB.
        trajectory_ids: (T, H_px, W_px) int16, 0 = background, 1..M = objects, constant over time.
        objects: The M objects in the order of their ids, nearest to the camera first.
        camera: One of `CAMERA_MOTIONS`.
        camera_path: (T, 3) float64: the scene point x, y (px) at the frame's centre, and the zoom factor.
            A scene point is drawn at (point - centre) * zoom + (W_px / 2, H_px / 2).
        background: A key of `BACKGROUNDS`.
        events: What happens when, in order of time: {"frame", "object_id", "event"}.
        captions: Sentences, from the shortest to the fullest.
        questions: {"type", "question", "answer", "choices"}; the answer is one of the choices.
        seed: Seed of the data set.
        index: Index of the world in the data set.
        config: The settings it was made with.
    """

    frames_uint8: np.ndarray
    trajectory_ids: np.ndarray
    objects: list[WorldObject]
    camera: str
    camera_path: np.ndarray
    background: str
    events: list[dict]
    captions: list[str]
    questions: list[dict]
    seed: int
    index: int
    config: WorldConfig

    def to_record(self) -> dict:
        """Everything but the pixels, as plain values that `json.dumps` accepts."""
        return {
            "seed": self.seed,
            "index": self.index,
            "config": {**asdict(self.config), "object_size_range": list(self.config.object_size_range)},
            "camera": self.camera,
            "camera_path": self.camera_path.tolist(),
            "background": self.background,
            "objects": [asdict(one) for one in self.objects],
            "events": self.events,
            "captions": self.captions,
            "questions": self.questions,
        }
