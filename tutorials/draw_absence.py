"""Draws tutorials/pictures/three_absences.png: python tutorials/draw_absence.py"""

from pathlib import Path

from rankcell.report.pictures.absence import draw_absence
from rankcell.report.pictures.figures import new_figure, save

PICTURE = Path(__file__).resolve().parent / "pictures" / "three_absences.png"


def main(path: Path = PICTURE) -> Path:
    figure = new_figure(9.6, 3.6)
    draw_absence(figure.subplots())
    save(figure, path)
    return path


if __name__ == "__main__":
    print(main())
