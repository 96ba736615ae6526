/* Until there is a translator. */
#include "bt/bt.h"
#include "vmm/vm.h"

const struct bt_stats *vm_bt_stats(const struct vm *vm)
{
    (void)vm;
    return NULL;
}

const char *bt_class_name(enum bt_class class)
{
    static const char *const names[BT_CLASSES] = {
        [BT_IDENTITY] = "identity",       [BT_RIP_RELATIVE] = "rip_relative",
        [BT_IN_LINE] = "in_line",         [BT_JUMP] = "jump",
        [BT_CONDITIONAL] = "conditional", [BT_CALL] = "call",
        [BT_RETURN] = "return",           [BT_INDIRECT] = "indirect",
        [BT_CALLED_OUT] = "called_out",   [BT_UNDECODED] = "undecoded",
    };

    return names[class];
}
