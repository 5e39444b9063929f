"""Writes beside target/dist/slotgate.wasm and target/dist/slotgate what goes with them: a bill of materials in CycloneDX's
JSON for each, and an OCI layout of the wasm.

Nothing of when or where: the same wasm gives the same files.
"""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

TARGET = "wasm32-wasip1"


def bill(out, file, target, features, name):
    """What is linked into a file: the packages that `cargo tree` names for the target, without dev-dependencies."""
    cargo = os.environ.get("CARGO", "cargo")
    command = [cargo, "metadata", "--format-version", "1", "--locked", "--filter-platform", target, *features]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]

    def linked(node):
        return sorted(
            dep["pkg"] for dep in nodes[node]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])
        )

    def purl(package):
        return f"pkg:cargo/{package['name']}@{package['version']}"

    todo, seen = [root], {root}
    while todo:
        for dep in linked(todo.pop()):
            if dep not in seen:
                seen.add(dep)
                todo.append(dep)

    def component(package, kind):
        found = {
            "type": kind,
            "bom-ref": purl(package),
            "name": package["name"],
            "version": package["version"],
            "purl": purl(package),
        }
        if package.get("license"):
            found["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        sums = checksums.get((package["name"], package["version"]))
        if sums:
            found["hashes"] = [{"alg": "SHA-256", "content": sums}]
        return found

    checksums = locked()
    built = hashlib.sha256((out / file).read_bytes()).hexdigest()
    main = component(packages[root], "application" if features else "library")
    main["hashes"] = [{"alg": "SHA-256", "content": built}]
    others = sorted((packages[one] for one in seen - {root}), key=purl)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": main},
        "components": [component(package, "library") for package in others],
        "dependencies": [
            {"ref": purl(packages[one]), "dependsOn": [purl(packages[dep]) for dep in linked(one)]}
            for one in sorted(seen, key=lambda one: purl(packages[one]))
        ],
    }
    (out / name).write_text(json.dumps(document, indent=2) + "\n")
    return packages[root]["version"]


def locked():
    """Package and version -> checksum, out of Cargo.lock."""
    found, name, version = {}, None, None
    for line in Path("Cargo.lock").read_text().splitlines():
        key, _, value = line.partition(" = ")
        value = value.strip('"')
        if key == "name":
            name = value
        elif key == "version":
            version = value
        elif key == "checksum":
            found[name, version] = value
    return found


def oci(out, version):
    """An image of one layer with `plugin.wasm` in it: the form that Istio, Envoy Gateway and every registry take."""
    blobs = out / "oci" / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(content, kind):
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}

    def write(document):
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()

    wasm = (out / "slotgate.wasm").read_bytes()
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo("plugin.wasm")
        entry.size, entry.mode = len(wasm), 0o644
        tar.addfile(entry, io.BytesIO(wasm))
    plain = layer.getvalue()
    kind = "application/vnd.oci.image"
    packed = blob(gzip.compress(plain, mtime=0), f"{kind}.layer.v1.tar+gzip")
    config = {
        "architecture": "wasm",
        "os": "wasi",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(plain).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": blob(write(config), f"{kind}.config.v1+json"),
        "layers": [packed],
        "annotations": {
            "org.opencontainers.image.title": "slotgate",
            "org.opencontainers.image.version": version,
            "org.opencontainers.image.licenses": "Apache-2.0",
            **revision(),
        },
    }
    entry = blob(write(manifest), f"{kind}.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": version}
    index = {"schemaVersion": 2, "mediaType": f"{kind}.index.v1+json", "manifests": [entry]}
    (out / "oci" / "index.json").write_bytes(write(index))
    (out / "oci" / "oci-layout").write_bytes(write({"imageLayoutVersion": "1.0.0"}))


def revision():
    """The commit, if the version names one that was not changed since: 0.2.0+1a2b3c4d5e6f."""
    _, _, found = os.environ.get("SLOTGATE_VERSION", "").partition("+")
    return {"org.opencontainers.image.revision": found} if found.isalnum() else {}


def read_back(out):
    """As whoever pulls it does: from the index to the wasm, each blob by its sum."""

    def blob(entry):
        content = (out / "oci" / "blobs" / entry["digest"].replace(":", "/")).read_bytes()
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != entry["digest"] or len(content) != entry["size"]:
            sys.exit(f"dist: blob {entry['digest']} is not what it is called")
        return content

    index = json.loads((out / "oci" / "index.json").read_bytes())
    manifest = json.loads(blob(index["manifests"][0]))
    config = json.loads(blob(manifest["config"]))
    layer = gzip.decompress(blob(manifest["layers"][0]))
    if config["rootfs"]["diff_ids"] != [f"sha256:{hashlib.sha256(layer).hexdigest()}"]:
        sys.exit("dist: the layer is not the one that its configuration names")
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        if tar.extractfile("plugin.wasm").read() != (out / "slotgate.wasm").read_bytes():
            sys.exit("dist: the layer holds another wasm")


def main():
    out, target = Path(sys.argv[1]), sys.argv[2]
    bill(out, "slotgate", target, ["--features", "cli"], "slotgate-cli.cdx.json")
    oci(out, bill(out, "slotgate.wasm", TARGET, [], "slotgate.cdx.json"))
    read_back(out)


main()
