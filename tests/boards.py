"""Folders of files that look like a board's, for everything that reads a machine below a root."""

from __future__ import annotations

from pathlib import Path

ORIN_NANO = {
    "machine": "aarch64",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.7, GCID: 0, BOARD: generic, EABI: aarch64, DATE: x\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/meminfo": "MemTotal:        7802984 kB\nMemFree:         900000 kB\nMemAvailable:    5242880 kB\n",
    "proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 3902272 0 5\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n"
    "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< POWER_MODEL ID=3 NAME=7W >\n< PM_CONFIG DEFAULT=1 >\n",
    "var/lib/nvpmodel/status": "pmode:0000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1728000\n",
    "sys/class/thermal/thermal_zone0/temp": "51500\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
}


def write_board(root: Path, files: dict[str, str] = ORIN_NANO) -> Path:
    """Writes the files below the root; one that starts a desktop at boot, too."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    target = root / "etc/systemd/system/default.target"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to("/lib/systemd/system/graphical.target")
    return root
