"""Examples at the end of every command's help."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("demo", "demo --video walk.mp4 --box 480,210,60,150 -o demo_walk"),
    "track": (
        "track walk.mp4 --box 480,210,60,150 --video walk_tracked.mp4 --csv walk.csv",
        "track images/ --box 480,210,60,150 --fps 30 --report walk.html",
        "track 0 --box 280,200,80,80 --json camera.json",
    ),
    "replay": (
        "replay door.mcap --box 691,213,30,90 -o door_tracked",
        "replay flight -o flight_tracked --image-topic /camera/image_raw --video flight.mp4",
        "replay door.mcap --box 691,213,30,90 -o out --reference door.json --min-iou 0.9",
        "replay recordings/morning recordings/noon -o tracked --init-topic /init_box",
    ),
    "video2bag": (
        "video2bag walk.mp4 -o walk_bag",
        "video2bag images/ -o walk_bag --fps 30 --topic /camera/image_raw --compressed jpeg",
    ),
    "select": (
        "select walk.mp4",
        "select door.mcap --track -o door_tracked",
        "select /camera --image-topic /camera/image_raw --once",
    ),
    "mavlink": (
        "mavlink",
        "mavlink --connection udpout:192.168.1.20:14550 --system-id 1",
        "mavlink --connection /dev/ttyUSB0 --baud 921600",
    ),
    "web": (
        "web /camera/image_raw",
        "web /camera/image_raw --host 0.0.0.0 --port 8000",
        "web /camera/image_raw --detections /yolo/detections -r init_box:=/drone/init_box",
    ),
    "node": (
        "node -r image:=/camera/image_raw",
        "node --params-file config/tracker_cpu.yaml -p template_update.interval:=20",
        "node --print-params",
    ),
    "play": ("play door.mcap", "play door.mcap --rate 0.5 --loop --clock"),
    "echo": ("echo /track", "echo /track -n 1 --timeout 10"),
    "info": ("info", "info bundle --json"),
    "quantize": (
        "quantize bundle -o bundle_int8 --precision int8 --data walk.mp4 --box 480,210,60,150",
        "quantize bundle -o bundle_bf16 --precision bf16 --data own_data",
    ),
    "calibrate": (
        "calibrate bundle --on held_out --budget 0.6",
        "calibrate bundle --on held_out --max-loss 0.5 --thresholds 0.6,0.7,0.8,0.9",
    ),
    "convert": (
        "convert mixformerv2_small.pth.tar -o bundle",
        "convert runs/finetune_t/last.pth.tar -o bundle --name my_tracker --force",
    ),
    "export": ("export bundle",),
    "benchmark": (
        "benchmark",
        "benchmark bundle --num-threads 2 --size 1920x1080 --json times.json",
        "benchmark --preset S --exits --report exits_s.html",
        "benchmark data config/training/finetune_t.yaml data.folder=my_data",
    ),
    "evaluate": (
        "evaluate --root my_data -o results",
        "evaluate bundle --root LaSOT --dataset lasot -o results --report lasot.html",
        "evaluate --root OTB100 --dataset otb --trackers mixformer,kcf --sequences David,Car4",
        "evaluate bundle --root held_out --exit-thresholds 0.6,0.8 -o out --report curve.html",
    ),
    "trax": ("trax", "trax --model bundle --num-threads 2"),
    "visualize": (
        "visualize attention walk.mp4 --box 480,210,60,150 -o attention.png",
        "visualize templates walk.mp4 --box 480,210,60,150 -o templates.mp4",
        "visualize samples config/training/finetune_t.yaml data.folder=my_data -o samples.png",
    ),
    "train": (
        "train config/training/finetune_t.yaml data.folder=my_data output=runs/mine",
        "train config/training/recipe_t.yaml common.data.folder=my_data",
        "train --profile config/training/recipe_s.yaml --stage layers8",
    ),
    "check-data": (
        "check-data config/training/finetune_t.yaml data.folder=my_data",
        "check-data config/training/recipe_s.yaml --image-step 100",
    ),
}
"""Command -> command lines, without `mixformerv2`."""
