# SPDX-License-Identifier: MIT
"""The orbit-sampling job: checkpoint in, Zarr store and report out; or checkpoint in, equivalent checkpoint out.

``checkpoint`` reads networks (``readers`` files, ``folder`` folders, ``lazy`` tensors that stay in their file,
``model`` layers, ``architecture`` the symmetry of transformers), ``plan`` says what a job is, ``store`` keeps its
blocks, ``observables`` measure the points (``evaluate`` their functions, ``rounding`` what they are judged by), ``run``
streams, ``verify`` checks that the function stays the same, ``report`` draws, ``inspect`` shows the symmetry, ``write``
writes checkpoints, ``gauge`` finds representatives. The command line is :mod:`nnsym_fast.cli`.
"""
