#!/usr/bin/env bash
# The device side on arm64 Linux, emulated: verify a bundle and predict with it under qemu, with OpenVINO and without.
#
#   tests/device/arm64.sh BUNDLE IMAGE [ROOT]     ROOT, by default build/arm64, is made once and used again
#
#   CPU=cortex-a76     the core: cortex-a76 (Raspberry Pi 5), cortex-a72 (Raspberry Pi 4), neoverse-n1
#   SYSFS=full         what the system sees of it under /sys: full, no-midr (no identification), none
#   PYTHON=python3     3.10 or later, with pip: builds the wheel here and fetches the others
#
# It shows that the packages exist for arm64, start and compute the same; never how fast. Debian's packages are unpacked, not configured:
# only Python must run. Mounts and the handler of arm64 files belong to a namespace of their own and end with it.
set -euo pipefail

python_version=3.11 suite=bookworm glibc_minor=36 # they belong together

die() {
    echo "$*" >&2
    exit 1
}

[ $# = 2 ] || [ $# = 3 ] || die "usage: $0 BUNDLE IMAGE [ROOT]"
here=$(cd "$(dirname "$0")/../.." && pwd)
bundle=$(realpath -e "$1") image=$(realpath -e "$2")
[ -f "$bundle/manifest.json" ] || die "$bundle is no bundle: it has no manifest.json"
root=$(realpath -m "${3:-$here/build/arm64}")
cpu=${CPU:-cortex-a76} sysfs=${SYSFS:-full} python=${PYTHON:-python3}

# Part, variant, revision and features as Linux shows them; the first three make up the MIDR that qemu gives this core.
common="fp asimd evtstrm aes pmull sha1 sha2 crc32"
newer="atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
case $cpu in
cortex-a72) part=d08 variant=0 revision=3 features="$common cpuid" ;;
cortex-a76) part=d0b variant=4 revision=1 features="$common $newer" ;;
neoverse-n1) part=d0c variant=4 revision=1 features="$common $newer" ;;
*) die "CPU=$cpu is not known here: cortex-a72, cortex-a76 or neoverse-n1" ;;
esac
case $sysfs in full | no-midr | none) ;; *) die "SYSFS=$sysfs is neither full, no-midr nor none" ;; esac

[ "$(id -u)" = 0 ] || die "must run as root: debootstrap and chroot need it"
wanted=()
command -v debootstrap >/dev/null || wanted+=(debootstrap)
command -v dpkg-deb >/dev/null || wanted+=(dpkg)
command -v unshare >/dev/null || wanted+=(util-linux)
command -v qemu-aarch64-static >/dev/null || wanted+=(qemu-user-static)
[ ${#wanted[@]} = 0 ] || die "missing: apt-get install ${wanted[*]}"
"$python" -m pip --version >/dev/null || die "missing: pip of $python: apt-get install python3-pip, or PYTHON=VENV/bin/python"

# 1. Debian for arm64, unpacked.
if [ ! -e "$root/.unpacked" ]; then
    [ ! -e "$root" ] || [ -z "$(ls -A "$root")" ] || [ -e "$root/.arm64" ] || die "$root exists and was not made by this script"
    rm -rf "$root"
    mkdir -p "$root"
    touch "$root/.arm64"
    echo "== Debian $suite for arm64"
    # debootstrap knows Debian's own mirror, but a machine may be set up with another one.
    mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
        sed -nE "s/^URIs:[[:space:]]*([^[:space:]]+).*/\1/p; s/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+).*/\2/p" |
        grep -E '/debian/?$' | head -1) || true
    debootstrap --foreign --arch=arm64 --variant=minbase --include=python3 "$suite" "$root" ${mirror:+"$mirror"} >"$root.log" 2>&1 ||
        die "$(tail -5 "$root.log")
debootstrap failed; what it did is in $root.log"
    for package in "$root"/var/cache/apt/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$root"
    done
    rm -f "$root.log" "$root"/var/cache/apt/archives/*.deb
    if [ -L "$root/proc" ]; then rm "$root/proc"; fi
    mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/srv"
    touch "$root/.arm64" "$root/.unpacked"
fi

# 2. The wheel and what it needs, for arm64. OpenVINO goes into a folder of its own, so that it can be left out.
echo "== edgeresnext[cpu] for arm64"
srv=$root/srv
rm -rf "$srv"
mkdir -p "$srv"
"$python" -m pip wheel -qq --disable-pip-version-check --no-deps --wheel-dir "$srv/wheel" "$here"
platforms=(--platform manylinux2014_aarch64)
for minor in $(seq 17 $glibc_minor); do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done
# The wheels come for another interpreter and system than pip's own, so markers in constraints are resolved here.
sed -E '/python_version *< *"3\.11"/d; s/;.*//' "$here/constraints.txt" >"$srv/constraints.txt"
"$python" -m pip install -qq --disable-pip-version-check --root-user-action ignore --no-compile --target "$srv/site" \
    --only-binary=:all: "${platforms[@]}" --python-version "$python_version" --implementation cp \
    -c "$srv/constraints.txt" "$(echo "$srv"/wheel/*.whl)[cpu]"
mkdir "$srv/openvino"
mv "$srv"/site/openvino* "$srv/openvino/"
cp -r "$bundle" "$srv/bundle"
cp "$image" "$srv/image"

# 3. What the system tells of its cores. With the files of another architecture ONNX Runtime crashes when it is imported.
rm -rf "$root/sys"
mkdir -p "$root/sys"
devices=sys/devices/system/cpu cores=0
for core in "/$devices"/cpu[0-9]*; do
    [ -d "$core/topology" ] || continue # switched off
    cores=$((cores + 1))
    printf 'processor\t: %d\nBogoMIPS\t: 108.00\nFeatures\t: %s\nCPU implementer\t: 0x41\n' "${core##*/cpu}" "$features"
    printf 'CPU architecture: 8\nCPU variant\t: 0x%x\nCPU part\t: 0x%s\nCPU revision\t: %d\n\n' "$variant" "$part" "$revision"
    if [ "$sysfs" != none ]; then # which cores there are is alike on all architectures
        mkdir -p "$root/$core/topology"
        cp --no-preserve=all "$core"/topology/* "$root/$core/topology/"
        cp --no-preserve=all /$devices/{possible,present,online,kernel_max} "$root/$devices/"
    fi
    if [ "$sysfs" = full ]; then
        mkdir -p "$root/$core/regs/identification"
        printf '0x%016x\n' $((0x41 << 24 | variant << 20 | 0xf << 16 | 0x$part << 4 | revision)) >"$root/$core/regs/identification/midr_el1"
        printf '0x%016x\n' 0 >"$root/$core/regs/identification/revidr_el1"
    fi
done >"$srv/cpuinfo"

# 4. A namespace with these mounts, and qemu for arm64 files: children of the emulated program are emulated too. A namespace of users
# has had its own list of handlers since Linux 6.7; before that the system's own must be registered, as qemu-user-static does.
cat >"$srv/enter" <<'INNER'
set -eu
root=$1 qemu=$2
shift 2
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
if ! chroot "$root" /bin/true 2>/dev/null; then
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    magic='\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    printf '%s' ":emulated-arm64:M::$magic:$mask:$qemu:OCF" >/proc/sys/fs/binfmt_misc/register
fi
mount --bind "$root/srv/cpuinfo" "$root/proc/cpuinfo"
exec chroot "$root" "$@"
INNER

emulated() { # PYTHONPATH COMMAND...
    local path=$1
    shift
    unshare --user --map-root-user --mount sh "$srv/enter" "$root" "$(command -v qemu-aarch64-static)" \
        /usr/bin/env -i PATH=/usr/bin:/bin HOME=/tmp LANG=C.UTF-8 COLUMNS=120 PYTHONPATH="$path" QEMU_CPU="$cpu" PYTHONDONTWRITEBYTECODE=1 \
        timeout 900 "$@"
}

emulated /srv/site /bin/true || die "arm64 programs cannot be run: this needs Linux 6.7 or later, or qemu registered for the whole system:
apt-get install qemu-user-static binfmt-support, and binfmt_misc mounted"

# 5. The device side.
summary=() worst=0
step() { # NAME PYTHONPATH COMMAND...
    local name=$1 path=$2 code=0 start=$SECONDS
    shift 2
    echo "== $name"
    emulated "$path" "$@" 2>&1 | tee "$srv/output" || code=${PIPESTATUS[0]}
    summary+=("$name: exit code $code after $((SECONDS - start)) s")
    while IFS= read -r line; do summary+=("    $line"); done < <(grep -E '^(ok|failed|skipped) |^ *[0-9.]+% |\(onnx/|^error|core dumped' "$srv/output" | cut -c 1-140)
    if [ "$code" != 0 ]; then worst=1; fi
}

for runtimes in "ONNX Runtime alone" "ONNX Runtime and OpenVINO"; do
    path=/srv/site
    [ "$runtimes" = "ONNX Runtime alone" ] || path=/srv/site:/srv/openvino
    step "verify, $runtimes" "$path" python3 -m edgeresnext verify /srv/bundle
    step "predict, $runtimes" "$path" python3 -m edgeresnext predict /srv/bundle /srv/image
done

# 6. Summary.
echo
echo "== summary: $cpu, $cores cores, /sys $sysfs"
emulated /srv/site:/srv/openvino python3 -c '
import platform
from importlib.metadata import version
print(platform.machine(), "python", platform.python_version(), *platform.libc_ver(), end="")
for name in "edgeresnext", "numpy", "pillow", "msgspec", "onnxruntime", "openvino":
    print(",", name, version(name), end="")
print()'
qemu-aarch64-static --version | head -1
printf '%s\n' "${summary[@]}"
exit $worst
