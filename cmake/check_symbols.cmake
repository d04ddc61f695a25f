# SPDX-License-Identifier: MIT
# Proves that an ISA unit exports its table and nothing else: a weak symbol (an inline function, a template) could be
# merged by the linker with the same symbol of another unit, and code for AVX-512 would run on a machine without it.
# cmake -DNM=... -DOBJECT=... -DTABLE=... -P check_symbols.cmake
execute_process(COMMAND ${NM} --defined-only --extern-only ${OBJECT} OUTPUT_VARIABLE symbols RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "nm failed on ${OBJECT}")
endif()
string(REGEX REPLACE "\n+$" "" symbols "${symbols}")
string(REPLACE "\n" ";" symbols "${symbols}")
set(found FALSE)
foreach(line IN LISTS symbols)
  if(line MATCHES "[DRS] _?_ZN5nnsym[0-9]+${TABLE}E$")
    set(found TRUE)
  else()
    message(FATAL_ERROR "${OBJECT} exports more than its table: ${line}")
  endif()
endforeach()
if(NOT found)
  message(FATAL_ERROR "${OBJECT} does not export ${TABLE}")
endif()
