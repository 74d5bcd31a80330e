//! The drivers of what servers, clouds and laboratories have their disks on.

/// What the word `common-storage` in a recipe stands for, in the kernel's spelling: controllers of disks in the machine, and
/// the driver of the disks themselves. Not in it: Fibre Channel and iSCSI, whose disks are not the machine's own and can be
/// thousands; USB; floppy disks, CDs and tapes; file systems and what else makes something of a disk.
pub const COMMON_STORAGE: &[&str] = &[
    "sd_mod",
    // Virtual machines and clouds. The bus of some is among the drivers of network cards too.
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_scsi",
    "hv_vmbus",
    "hv_storvsc",
    "pci_hyperv",
    "vmw_pvscsi",
    "xen_blkfront",
    "BusLogic",
    "mptspi",
    "sym53c8xx",
    // NVM Express, also behind Intel's volume management device.
    "nvme",
    "vmd",
    "mtip32xx",
    // Serial ATA and its ancestor.
    "ahci",
    "acard_ahci",
    "ata_generic",
    "ata_piix",
    "isci",
    "pata_atiixp",
    "pata_jmicron",
    "pata_marvell",
    "sata_mv",
    "sata_nv",
    "sata_promise",
    "sata_sil",
    "sata_sil24",
    "sata_svw",
    "sata_via",
    // Broadcom, formerly LSI, Avago, 3ware.
    "megaraid_sas",
    "mpt3sas",
    "mpi3mr",
    "mptsas",
    "3w_9xxx",
    "3w_sas",
    // Microchip, formerly Adaptec, PMC-Sierra and HP's Smart Array.
    "aacraid",
    "aic94xx",
    "hpsa",
    "pm80xx",
    "pmcraid",
    "smartpqi",
    // Others.
    "arcmsr",
    "esas2r",
    "hptiop",
    "ipr",
    "mvsas",
    "mvumi",
    "stex",
    // On the chips of servers.
    "hisi_sas_v2_hw",
    "hisi_sas_v3_hw",
    "ahci_platform",
    "ahci_xgene",
    "mmc_block",
    "sdhci_acpi",
    "sdhci_pci",
];
