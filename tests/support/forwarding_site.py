"""The site that many tests run: one core, one space, and a STOW binding to another server."""

from __future__ import annotations

_SITE = """\
apiVersion: imaging-ingestion.alvearie.org/v1alpha1
kind: DicomEventDrivenIngestion
metadata: {{name: core}}
spec: {{revisioningDelay: {revisioning_delay}}}
---
apiVersion: imaging-ingestion.alvearie.org/v1alpha1
kind: DicomwebIngestionService
metadata: {{name: clinical}}
spec: {{dicomEventDrivenIngestionName: core, providerName: clinical}}
---
apiVersion: imaging-ingestion.alvearie.org/v1alpha1
kind: DicomInstanceBinding
metadata: {{name: forward}}
spec: {{dicomEventDrivenIngestionName: core, bindingConfigName: forward}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: forward}}
data: {{STOW_ENDPOINT: "{endpoint}"}}
"""


def forwarding_site(endpoint: str, *, revisioning_delay: float = 1) -> str:
    """Its YAML: the binding `forward` delivers to `endpoint`; `revisioning_delay` is in seconds."""
    return _SITE.format(endpoint=endpoint, revisioning_delay=revisioning_delay)
