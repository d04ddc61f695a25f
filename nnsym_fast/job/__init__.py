# SPDX-License-Identifier: MIT
"""The orbit-sampling job: checkpoint in, Zarr store and report out.

``checkpoint`` reads networks, ``plan`` says what a job is, ``store`` keeps its blocks, ``observables`` measure the
points, ``run`` streams, ``verify`` checks that the function stays the same, ``report`` draws. The command line is
:mod:`nnsym_fast.cli`.
"""
