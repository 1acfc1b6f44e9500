"""The compiled extensions: what each is compiled from and how, the cache of built libraries, loading.

`build.py` compiles any recipe; `cpu.py` and `cuda.py` make the recipes of the two extensions, `toolkit.py` and
`architectures.py` serve the second; `cache.py` keeps built libraries and `loader.py` loads them. `setup.py` loads this
folder as a package of its own, so that build, recipes and what they need import only each other, and torch when asked.
"""
