"""How much burned-in text `sonoray.privacy.burned_in_text` finds, and what it takes for text.

Run: `.venv/bin/python bench/burned_in_text.py --data ../shared/data --base CHECKOUT_OF_829b5a9`

The finder was fitted to BUSI, the phantom of seed 3 and the odd cases of BUS-BRA. What is measured
here, it has not seen: BUS-BRA's even cases, POCOVID-Net and the phantom of seed 4. Two of three
pictures of BUS-BRA hold text (quadrants, sizes, the maker's sign), so that those which can tell
false boxes are named in `burned_in_text_clean.csv`: of 112 even cases, drawn at random and looked
at, 34 whole pictures without text, and of 43 others, of old machines with sharp bright speckle, the
rows that have none. Calipers and depth rulers count as no text.

Strings as scanners draw them (random letters, numbers, dates, Chinese characters) are rendered on
these pictures, at their own size and enlarged to a screen's 800 pixels, where the speckle is as
broad as on a screen: on a black margin above the picture and over the tissue; white, light grey,
yellow and white with a black outline; antialiased; as they are and after JPEG at quality 75. A
string is found where the boxes cover 90 % of its ink. The second table has the share of pixels that
boxes cover outside the strings, the third what is covered of pictures without text: `--show FOLDER`
writes those with their boxes. Then strings are drawn so that they touch an edge. Last comes the
CPU time of the finder beside decoding and PNG encoding of one picture of 1024 x 768, and, where
`--base` names another checkout with its `.venv`, the CPU time of both on the same pictures of
1024 x 768: without text, with two strings on a black margin, and with two over tissue.

Latin is drawn in DejaVu Sans and Chinese in Noto Sans CJK or, where it is missing, another of
`FONTS` (Debian: fonts-dejavu-core, fonts-noto-cjk or fonts-wqy-zenhei).
"""

import argparse
import csv
import io
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sonoray.images.decode import decode_image, encode_png
from sonoray.ingest.sources.synthetic import PhantomSource
from sonoray.phantom import PhantomConfig
from sonoray.privacy import burned_in_text
from sonoray.privacy.text_lines import Box

FONTS = {
    "latin": ("DejaVuSans.ttf", "LiberationSans-Regular.ttf"),
    "chinese": ("NotoSansCJK-Regular.ttc", "NotoSerifCJK-Bold.ttc", "wqy-zenhei.ttc"),
}
FONTS["digits"] = FONTS["latin"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CHARACTERS = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏"
    "魏吕丁任沈姚卢姜崔钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵"
    "万钱严覃武戴莫孔向汤医院姓名性别年龄检查科室住院门诊编号日期市人民中心附属第一二三四五六七八九"
)
SIZES = (8, 10, 12, 14, 16, 20, 24, 32)
STYLES = ("white", "grey", "yellow", "outlined")
COLOURS = {
    "white": (255, 255, 255),
    "grey": (190, 190, 190),
    "yellow": (255, 255, 0),
    "outlined": (255, 255, 255),
}
SCREEN = 800
TIMER = """
import sys, time
import numpy as np
try:
    from sonoray.privacy.burned_in_text import find_text
except ImportError:
    from sonoray.burned_in_text import find_text
pictures = list(np.load(sys.argv[1]).values())
find_text(pictures[-1])
times = []
for picture in pictures:
    start = time.process_time()
    find_text(picture)
    times.append(time.process_time() - start)
print(*times)
"""
"""Prints the CPU seconds of a checkout's finder for each of the pictures in a file."""
CLEAN = Path(__file__).with_name("burned_in_text_clean.csv")


def find_text(picture: np.ndarray) -> list[Box]:
    """What is covered of a picture."""
    return [line.box for line in burned_in_text.find_text(picture)]


def load_font(script: str, size: int) -> ImageFont.FreeTypeFont:
    """Load the first font of `FONTS` that is installed."""
    for name in FONTS[script]:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    raise SystemExit(f"no font for {script}; install one of {', '.join(FONTS[script])}")


def make_string(rng: np.random.Generator, script: str) -> str:
    """A line of the kind that stands on a scanner's screen."""
    if script == "chinese":
        return "".join(rng.choice(list(CHARACTERS), rng.integers(2, 9)))
    if script == "digits":
        digits = "".join(rng.choice(list("0123456789"), 10))
        forms = (
            digits,
            f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}",
            f"{digits[:2]}/{digits[2:4]}/{digits[4:8]}",
            f"{digits[:2]}:{digits[2:4]}:{digits[4:6]}",
            f"ID {digits[:8]}",
        )
        return str(rng.choice(forms))
    words = ("".join(rng.choice(list(LETTERS), n)) for n in rng.integers(3, 9, size=2))
    return " ".join(words)


def draw(
    picture: np.ndarray, rng: np.random.Generator, script: str, size: int, style: str
) -> Iterator[tuple[str, np.ndarray, list[tuple[str, np.ndarray]]]]:
    """Yield place, RGB picture and each string's (script, ink) of one style and size."""
    height, width = picture.shape[:2]
    for place in ("margin", "tissue"):
        lead = 6 * size if place == "margin" else 0
        canvas = np.zeros((height + lead, width, 3), np.uint8)
        canvas[lead:] = picture if picture.ndim == 3 else picture[..., None]
        image = Image.fromarray(canvas)
        font, inks = load_font(script, size), []
        for row in range(2):
            text = make_string(rng, script)
            left, upper, right, lower = font.getbbox(text)
            room = (width - (right - left) - 8, height - (lower - upper) - 8)
            if min(room) < 1:
                continue
            x = int(rng.integers(4, 4 + room[0]))
            first = row * 3 * size if place == "margin" else row * (height // 2)
            last = first + (size if place == "margin" else height // 2 - lower - 4)
            y = int(rng.integers(first + 2, max(last, first + 3)))
            ink = Image.new("L", image.size)
            ImageDraw.Draw(ink).text((x, y), text, font=font, fill=255)
            outline = {"stroke_width": 1, "stroke_fill": (0, 0, 0)} if style == "outlined" else {}
            ImageDraw.Draw(image).text((x, y), text, font=font, fill=COLOURS[style], **outline)
            inks.append((script, np.asarray(ink) >= 128))
        yield place, np.asarray(image), inks


def to_jpeg(picture: np.ndarray) -> np.ndarray:
    """The picture after JPEG at quality 75."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file))


def load_pictures(data: Path, count: int, seed: int) -> dict[str, list[np.ndarray]]:
    """Draw up to `count` pictures without text of each set, grey or RGB; the phantom's are made."""
    rng = np.random.default_rng(seed)
    sets: dict[str, list[np.ndarray]] = {}
    with CLEAN.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for i in rng.permutation(len(rows)):
        upper, lower = int(rows[i]["upper"]), int(rows[i]["lower"])
        picture = decode_image((data / "busbra/images" / rows[i]["picture"]).read_bytes())
        kind = "busbra" if (upper, lower) == (0, len(picture)) else "busbra rows"
        if len(sets.setdefault(kind, [])) < count:
            sets[kind].append(picture[upper:lower])
    files = sorted(data.glob("pocovid/image_dataset/*/*"))
    chosen = rng.permutation(len(files))[:count]
    sets["pocovid"] = [decode_image(files[i].read_bytes()) for i in chosen]
    studies = PhantomSource(PhantomConfig(num_patients=count, seed=4)).iter_studies()
    sets["phantom"] = [study.images[0].data for study in islice(studies, count)]
    return sets


def enlarge(picture: np.ndarray) -> np.ndarray:
    """The picture with `SCREEN` pixels on its longer side."""
    factor = SCREEN / max(picture.shape[:2])
    size = (round(picture.shape[1] * factor), round(picture.shape[0] * factor))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def cover(shape: Sequence[int], boxes: Iterable[Box]) -> np.ndarray:
    """What the boxes cover, bool (H, W)."""
    covered = np.zeros(shape[:2], bool)
    for box in boxes:
        covered[box.upper : box.lower, box.left : box.right] = True
    return covered


def surroundings(inks: Sequence[tuple[str, np.ndarray]]) -> Iterator[Box]:
    """Yield each string's box, wider by half its height on each side: what a box may cover."""
    for _, ink in inks:
        y, x = np.nonzero(ink)
        if len(y):
            room = 2 + (y.max() - y.min()) // 2
            yield Box(
                upper=max(y.min() - room, 0), left=max(x.min() - room, 0),
                lower=y.max() + 1 + room, right=x.max() + 1 + room,
            )  # fmt: skip


def measure_recall(sets: dict[str, list[np.ndarray]], seed: int) -> None:
    """Print recall by place, script, style, size, set and coding."""
    found: dict[tuple, list[tuple[float, bool]]] = defaultdict(list)
    beside: dict[str, list[float]] = defaultdict(list)
    rng = np.random.default_rng(seed)
    for name, pictures in sets.items():
        for number, small in enumerate(pictures):
            for scale in ("own", "screen"):
                picture = small if scale == "own" else enlarge(small)
                script = ("latin", "digits", "chinese")[number % 3]
                for size in SIZES:
                    style = STYLES[int(rng.integers(len(STYLES)))]
                    for place, image, inks in draw(picture, rng, script, size, style):
                        coded = bool(rng.integers(2))
                        shown = to_jpeg(image) if coded else image
                        covered = cover(shown.shape, find_text(shown))
                        beside[f"{scale} {place}"].append(
                            (covered & ~cover(covered.shape, surroundings(inks))).mean()
                        )
                        for kind, ink in inks:
                            share = covered[ink].mean()
                            keys = (
                                (f"{scale} {place}", size),
                                (f"{scale} {kind}", size),
                                (f"{scale} {style}", size),
                                (f"{scale} {name}", size),
                                (f"{scale} {'jpeg' if coded else 'lossless'}", size),
                                (f"{scale} all", size),
                            )
                            for key in keys:
                                found[key].append((share, share >= 0.9))
    print("strings found (ink covered), %, by height in pixels")
    print(f"{'':20}" + "".join(f"{size:>11}" for size in (*SIZES, "all")))
    for row in sorted({key[0] for key in found}):
        groups = [found.get((row, size), []) for size in SIZES]
        cells = []
        for group in (*groups, list(chain(*groups))):
            share, hit = np.mean(group or [(np.nan, np.nan)], axis=0)
            cells.append(f"{100 * hit:5.1f} ({100 * share:3.0f})")
        print(f"{row:20}" + "".join(f"{cell:>11}" for cell in cells))
    print("\ncovered beside the strings, % of the pixels: mean, and of one picture in twenty")
    for row, shares in sorted(beside.items()):
        print(f"{row:20}{100 * np.mean(shares):8.2f}{100 * np.quantile(shares, 0.95):8.2f}")


def measure_false_boxes(sets: dict[str, list[np.ndarray]], show: Path | None) -> None:
    """Print how many pictures without text get a box, and the share of pixels."""
    print(f"\n{'without text':20}{'pictures':>10}{'with a box %':>14}{'pixels masked %':>17}")
    for name, pictures in sets.items():
        for scale in ("own", "screen"):
            hits, shares = 0, []
            for number, small in enumerate(pictures):
                picture = small if scale == "own" else enlarge(small)
                boxes = find_text(picture)
                hits += bool(boxes)
                shares.append(cover(picture.shape, boxes).mean())
                if show is not None and boxes:
                    image = Image.fromarray(picture).convert("RGB")
                    for box in boxes:
                        corners = (box.left, box.upper, box.right - 1, box.lower - 1)
                        ImageDraw.Draw(image).rectangle(corners, outline=(255, 0, 0))
                    image.save(show / f"{name}_{scale}_{number}.png")
            print(
                f"{name + ' ' + scale:20}{len(pictures):>10}{100 * hits / len(pictures):>14.1f}"
                f"{100 * np.mean(shares):>17.2f}"
            )


def measure_edges(sets: dict[str, list[np.ndarray]], seed: int) -> None:
    """Print how many strings are found that touch an edge of the picture, by edge."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[bool]] = defaultdict(list)
    for number, picture in enumerate(chain(*sets.values())):
        canvas = np.pad(enlarge(picture), ((60, 60), (60, 60), (0, 0))[: picture.ndim])
        script = ("latin", "digits", "chinese")[number % 3]
        for size in SIZES:
            text, font = make_string(rng, script), load_font(script, size)
            left, upper, right, lower = font.getbbox(text)
            height, width = canvas.shape[:2]
            middle = (width - right) // 2, (height - lower) // 2
            places = {
                "upper": (middle[0], -upper), "lower": (middle[0], height - lower),
                "left": (-left, middle[1]), "right": (width - right, middle[1]),
            }  # fmt: skip
            for edge, place in places.items():
                image, ink = Image.fromarray(canvas).convert("RGB"), Image.new("L", (width, height))
                ImageDraw.Draw(image).text(place, text, font=font, fill=COLOURS["white"])
                ImageDraw.Draw(ink).text(place, text, font=font, fill=255)
                shown = np.asarray(ink) >= 128
                boxes = cover(shown.shape, find_text(np.asarray(image)))
                found[edge].append(bool(boxes[shown].mean() >= 0.9))
    print(f"\n{'at an edge':20}{'strings':>10}{'found %':>10}")
    for edge, hits in found.items():
        print(f"{edge:20}{len(hits):>10}{100 * np.mean(hits):>10.1f}")


def measure_base(sets: dict[str, list[np.ndarray]], seed: int, base: Path) -> None:
    """Print the CPU time of the finder of this checkout and of `base` on the same pictures."""
    rng = np.random.default_rng(seed)
    screens: dict[str, list[np.ndarray]] = defaultdict(list)
    for number, picture in enumerate(chain(*sets.values())):
        small = Image.fromarray(picture).resize((1024, 768), Image.Resampling.BICUBIC)
        screens["without text"].append(np.asarray(small))
        script, style = ("latin", "digits", "chinese")[number % 3], STYLES[number % 4]
        for place, image, _ in draw(np.asarray(small), rng, script, 16, style):
            screens[f"two strings, {place}"].append(image[:768])
    print(f"\n{'CPU ms a picture':24}{'pictures':>10}{'here':>10}{'base':>10}{'ratio':>10}")
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        named = {f"{kind} {i}": p for kind, group in screens.items() for i, p in enumerate(group)}
        np.savez(file.name, **named)
        times = []
        for checkout in (Path(__file__).parents[1], base):
            command = [str(checkout / ".venv/bin/python"), "-c", TIMER, file.name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            times.append(1000 * np.array(done.stdout.split(), float))
    kinds = np.array([name.rpartition(" ")[0] for name in named])
    for kind in (*screens, "all"):
        here, there = (each[(kinds == kind) | (kind == "all")].mean() for each in times)
        number = (kinds == kind).sum() or len(kinds)
        print(f"{kind:24}{number:>10}{here:>10.1f}{there:>10.1f}{here / there:>10.2f}")


def measure_time(sets: dict[str, list[np.ndarray]]) -> None:
    """Print CPU milliseconds for one picture of 1024 x 768, the median of 15."""
    small = Image.fromarray(sets["pocovid"][0]).resize((1024, 768), Image.Resampling.BICUBIC)
    rng = np.random.default_rng(0)
    _, picture, _ = next(draw(np.asarray(small), rng, "latin", 16, "white"))
    picture = picture[:768]
    grey = np.ascontiguousarray(picture[..., 0])
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    works = {
        "find_text, grey": lambda: find_text(grey),
        "find_text, RGB": lambda: find_text(picture),
        "decode JPEG, RGB": lambda: decode_image(file.getvalue()),
        "encode PNG, grey": lambda: encode_png(grey),
        "encode PNG, RGB": lambda: encode_png(picture),
    }
    print()
    for name, work in works.items():
        times = []
        for _ in range(15):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        print(f"{name:20}{1000 * np.median(times):8.1f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--count", type=int, default=8, help="pictures of each set")
    parser.add_argument(
        "--clean", type=int, default=117, help="pictures of each set for the false boxes"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", type=Path, default=None, help="another checkout, for its time")
    parser.add_argument("--show", type=Path, default=None, help="folder for pictures with boxes")
    args = parser.parse_args()
    if args.show is not None:
        args.show.mkdir(parents=True, exist_ok=True)
    few = load_pictures(args.data, args.count, args.seed)
    measure_recall(few, args.seed)
    measure_edges({name: pictures[:2] for name, pictures in few.items()}, args.seed)
    clean = load_pictures(args.data, args.clean, args.seed)
    measure_false_boxes(clean, args.show)
    measure_time(clean)
    if args.base is not None:
        measure_base(few, args.seed, args.base)


if __name__ == "__main__":
    main()
