//! CycloneDX 1.6 (<https://cyclonedx.org/docs/1.6/json/>).

use bootspec::manifest::Package;
use serde_json::{Value, json};

use super::{Sbom, key};

/// The document. The image is its subject, each package one component of it.
pub fn document(sbom: &Sbom<'_>) -> Value {
    let manifest = sbom.manifest;
    let image = manifest.image.to_string();
    let components: Vec<_> = manifest.packages.iter().map(|package| component(sbom, package)).collect();
    let references: Vec<_> = manifest.packages.iter().map(key).collect();
    let (tool, tool_version) = manifest.build.tool.split_once(' ').unwrap_or((&manifest.build.tool, ""));
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": sbom.built,
            "tools": {"components": [{"type": "application", "name": tool, "version": tool_version}]},
            "component": {
                "type": "operating-system",
                "bom-ref": image,
                "name": manifest.image.name,
                "version": manifest.image.version,
                "properties": [
                    {"name": "bootnode:manifest:sha256", "value": sbom.digest},
                    {"name": "bootnode:kernel_release", "value": manifest.kernel_release},
                ],
            },
        },
        "components": components,
        "dependencies": [{"ref": image, "dependsOn": references}],
    })
}

fn component(sbom: &Sbom<'_>, package: &Package) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": key(package),
        "name": package.name,
        "version": package.version,
    });
    if let Some(purl) = sbom.purl(package) {
        component["purl"] = purl.into();
    }
    component
}
