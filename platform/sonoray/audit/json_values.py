"""An audit as plain JSON values: `audit.json`, from which the page and the terminal are written.

Patients' texts are left out unless they are asked for; study ids stand in it, which are keyed
hashes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from sonoray.audit.findings import Audit
from sonoray.study.contract import SPLITS, Study

_FILES_OF_STUDY = 3
"""Most files that stand for a study of which no single image is meant."""


def add_files(values: Mapping[str, Any], studies: Iterable[Study]) -> None:
    """Give the rows of a public set the names of the files that they speak of, as `files`.

    Args:
        values: as `to_values` returns it, with the overlap under `against` where there is one.
        studies: all of the dataset.
    """
    sections = ("leakage", "duplicates", "conflicts", "contradictions")
    rows = [row for section in sections for row in values[section]["rows"]]
    rows += (values.get("against") or {}).get("rows", [])
    wanted = {study for row in rows for study in row.get("studies", [row.get("study_id")])}
    files = {
        study.study_id: {image.image_id: image.source_ref for image in study.images}
        for study in studies
        if study.study_id in wanted
    }
    for row in rows:
        images = row.get("images", [])
        names: dict[str, None] = {}
        for study in row.get("studies", [row.get("study_id")]):
            own = files.get(study, {})
            names |= dict.fromkeys(own[image] for image in images if image in own)
            if not images:
                names |= dict.fromkeys(list(own.values())[:_FILES_OF_STUDY])
        row["files"] = list(names)


def to_values(audit: Audit, *, texts: Mapping[bytes, str], show_texts: bool) -> dict[str, Any]:
    """Bring an audit into plain JSON values; patients' texts are left out unless asked for."""
    counts, links, terms, summary = audit.counts, audit.links, audit.terms, audit.summary
    conflicts = [asdict(each) for each in links.conflicting]
    contradictions = [asdict(each) for each in terms.listed]
    if not show_texts:
        for row in conflicts:
            row["values"] = [] if row["kind"] == "text" else row["values"]
        for row in contradictions:
            del row["text"]
    return {
        "accounting": {name: summary[name] for name in ("studies", "images")},
        "reasons": summary["reasons"],
        "splits": {
            split: {
                "patients": counts.patients[split],
                "studies": counts.studies[split],
                "images": counts.images[split],
                "unique_images": links.unique_images[split],
                "without_text": counts.without_text[split],
                "without_images": counts.without_images[split],
            }
            for split in SPLITS
        },
        "images_per_study": {str(k): dict(n) for k, n in counts.images_per_study.items()},
        "sizes": [[*size, number] for size, number in counts.sizes.items()],
        "masks": {
            "images": audit.num_masks,
            "empty": audit.num_empty_masks,
            "median_share": audit.mask_share,
        },
        "labels": [asdict(label) for label in counts.labels],
        "topics": [
            {
                **asdict(topic),
                "top": [
                    {
                        "text": texts.get(top.digest),
                        "share": top.number / topic.questions[SPLITS[0]],
                    }
                    for top in topic.top
                ],
            }
            for topic in counts.topics
        ],
        "leakage": {"counts": links.leakage, "rows": [asdict(row) for row in links.leaking]},
        "duplicates": {
            "counts": links.duplicates,
            "patients": links.linked_patients,
            "rows": [asdict(row) for row in links.linked],
        },
        "conflicts": {"counts": links.conflicts, "rows": conflicts},
        "contradictions": {
            "labels": [
                {"label": label, "studies": number, "found": terms.num_found[label]}
                for label, number in terms.checked.items()
            ],
            "unchecked": terms.unchecked,
            "rows": contradictions,
        },
        "integrity": {
            "missing_images": links.missing_images,
            "unused_images": links.unused_images,
            "mask_conflicts": summary["mask_conflicts"],
            "changed_files": list(audit.changed_files),
        },
    }
