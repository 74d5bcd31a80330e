//! SPDX 2.3 (<https://spdx.github.io/spdx-spec/v2.3/>).

use bootspec::manifest::Package;
use serde_json::{Value, json};

use super::Sbom;

const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-image";

/// The document. The image is a package that contains the others.
pub fn document(sbom: &Sbom<'_>) -> Value {
    let manifest = sbom.manifest;
    let image = json!({
        "SPDXID": IMAGE,
        "name": manifest.image.name,
        "versionInfo": manifest.image.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "comment": format!("Linux {}; SHA-256 of the manifest: {}", manifest.kernel_release, sbom.digest),
    });
    let packages = manifest.packages.iter().enumerate().map(|(n, found)| package(sbom, n, found));
    let contained = (0..manifest.packages.len()).map(|n| relationship(IMAGE, "CONTAINS", &id(n)));
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": manifest.image.to_string(),
        "documentNamespace": format!("urn:bootnode:sha256:{}", sbom.digest),
        "creationInfo": {
            "created": sbom.built,
            "creators": [format!("Tool: {}", manifest.build.tool.replace(' ', "-"))],
        },
        "packages": std::iter::once(image).chain(packages).collect::<Vec<_>>(),
        "relationships":
            std::iter::once(relationship(DOCUMENT, "DESCRIBES", IMAGE)).chain(contained).collect::<Vec<_>>(),
    })
}

/// Letters, digits, dots and hyphens are all that an id may have; so packages are numbered.
fn id(number: usize) -> String {
    format!("SPDXRef-package-{number}")
}

fn package(sbom: &Sbom<'_>, number: usize, package: &Package) -> Value {
    let mut value = json!({
        "SPDXID": id(number),
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
    });
    if let Some(purl) = sbom.purl(package) {
        value["externalRefs"] = json!([{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": purl,
        }]);
    }
    value
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}
