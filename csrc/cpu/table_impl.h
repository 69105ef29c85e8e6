// The kernels of one instruction set: noise arithmetic A, vectors V of the chains' (vectors.h).
#pragma once

#include "analytic_chain_impl.h"
#include "kernels_impl.h"
#include "mlp_chain_impl.h"
#include "moves_impl.h"

namespace fastlangevin {
namespace {

template <class A, class T>
constexpr MoveKernels<T> make_moves() {
  return {move<A, T>, mala_test<A, T>, hmc_test<A, T>};
}

template <class A, class V = A>
constexpr Kernels make_kernels(const char* name) {
  return {name,
          fill<A, false>,
          fill<A, true>,
          update<A, float>,
          update<A, double>,
          update<A, BFloat16>,
          update<A, Half>,
          make_moves<A, float>(),
          make_moves<A, double>(),
          make_moves<A, BFloat16>(),
          make_moves<A, Half>(),
          {{mixture_block, mixture_scratch<V>, mixture_chain<A, V>},
           {mixture_block, mixture_transitions_scratch<V>, mixture_transitions<A, V>}},
          {{block, double_well_scratch, double_well_chain<A>},
           {double_well_block, double_well_transitions_scratch, double_well_transitions<A>}}};
}

}  // namespace
}  // namespace fastlangevin
