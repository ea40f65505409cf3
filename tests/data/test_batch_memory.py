import gc
import pickle

import jax
import numpy as np

from nnx_alexnet.data.batch_memory import BatchMemory


def test_memory_is_lent_again_after_all_views_are_gone():
    memory = BatchMemory()
    first = memory.empty((4, 5), np.float32)
    assert (first.shape, first.dtype, first.ctypes.data % 64) == ((4, 5), np.float32, 0)
    address, part = first.ctypes.data, first[1:]
    del first
    second = memory.empty((4, 5), np.float32)
    assert second.ctypes.data != address
    del part
    assert memory.empty((2, 10), np.float32).ctypes.data == address
    assert memory.empty((4, 6), np.float32).ctypes.data not in (address, second.ctypes.data)


def test_memory_that_jax_uses_is_not_lent_again():
    memory = BatchMemory()
    array = memory.empty((64, 64), np.float32)
    array[...] = 7
    on_device = jax.device_put({"x": array})["x"]
    total = jax.jit(lambda x: x.sum())(on_device)
    del array
    for _ in range(3):
        memory.empty((64, 64), np.float32)[...] = 0
    assert np.array_equal(on_device, np.full((64, 64), 7.0))
    assert total == 7 * 64 * 64
    view = np.asarray(on_device)
    del on_device
    gc.collect()
    memory.empty((64, 64), np.float32)[...] = 0
    assert (view == 7).all()


def test_batches_that_a_caller_keeps_are_not_overwritten():
    memory, kept = BatchMemory(), []
    for number in range(40):  # more than the memory remembers
        kept.append(memory.empty((8,), np.int32))
        kept[-1][...] = number
    assert [array.tolist() for array in kept] == [[number] * 8 for number in range(40)]


def test_a_copy_in_another_process_has_its_own_memory():
    memory = BatchMemory()
    memory.empty((8,), np.int32)
    assert pickle.loads(pickle.dumps(memory)).empty((2,), np.int8).shape == (2,)
