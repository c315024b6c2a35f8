// How every call enters the core: without the GIL, and with the forest to itself.
#pragma once

#include <pybind11/pybind11.h>

#include <mutex>

#include "forest/forest.hpp"

namespace malt::bindings {

template <class Work>
auto locked(Forest& forest, const Work& work) {
    const pybind11::gil_scoped_release release;
    const std::scoped_lock lock(forest.mutex);
    return work();
}

}  // namespace malt::bindings
