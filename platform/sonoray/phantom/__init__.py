"""A synthetic patient population under an ultrasound probe, with everything known about it.

It is the project's instrument for "does it learn what it should": images with a physical speckle
model, lesions whose attributes are visible and decide their pathology, studies of which only some
images show the finding, and reports and questions, in Chinese or English, that follow from the
truth. One image takes about 12 ms of one core, nearly the same from 96 to 384 pixels.

- `physics`: scatterers, point-spread function, attenuation, gain, compression, scan conversion
- `lesion`: attributes, shape, mask
- `anatomy`: thyroid, breast and liver as layers; the probe of each
- `marks`: body mark and ruler
- `projection`, `chest`: the second modality, a chest film with findings of known kind
- `language`: questions and answers; `wording`, `chinese`, `english`: the texts' languages
- `study`: plans and renders studies; `PhantomConfig` and `iter_phantom`
"""

from sonoray.phantom.cohort import (
    PhantomConfig,
    StudyPlan,
    build_study,
    iter_phantom,
    plan_study,
    render_view,
)

__all__ = [
    "PhantomConfig",
    "StudyPlan",
    "build_study",
    "iter_phantom",
    "plan_study",
    "render_view",
]
