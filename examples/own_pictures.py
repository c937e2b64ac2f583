"""Train both stages of AFA on a folder of pictures: ``python examples/own_pictures.py FOLDER [key=value ...]``.

FOLDER contains one folder of pictures for each class. ``key=value`` arguments override the settings of the config.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import afa

CONFIG = "hocon_config/own_pictures.hocon"


def main(pictures: Path, overrides: list[str]) -> None:
    # Four fifths of each class become training images, one fifth test images.
    afa.prepare(afa.PrepareSettings(prepare="from_folder", archive=str(pictures), target_data_dir="data"))
    settings = afa.load_settings(CONFIG, ["target_data_dir=data", f"target_dataset={pictures.name}", *overrides])
    result = afa.run(settings)
    print(f"top-1 after both stages: {result['last_test_top1']['mean']:.1f} %")

    classifier = afa.load_classifier(settings.run_name, outpath=settings.run.outpath, gpu_id=settings.run.gpu_id)
    picture = next(path for path in sorted(pictures.rglob("*")) if path.is_file())
    (prediction,) = classifier.predict(picture)
    print(f"{picture}: {prediction.classes[0]} ({100 * prediction.probabilities[0]:.0f} %)")

    for attention in afa.attention_maps(classifier, [picture]):
        strongest = attention.weights[0].argmax().item()
        print(f"{attention.layer}: {attention.kind} attention is highest at entry {strongest}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} FOLDER [key=value ...]")
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    except afa.AFAError as error:
        sys.exit("\n".join(error.lines))
